//! quick
use moelten_quant::*;
fn main(){
  let mut st=1u64; let mut byte=||{st=st.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);(st>>56) as u8};
  for format in Format::ALL { if format.block_len()==1 {continue}
    for (rows,cols,tokens) in [(1,256,1),(16,256,1),(21,512,3),(70,768,1),(70,768,130),(48,256,17),(33,1024,5)] {
      let mut bytes:Vec<u8>=(0..format.row_bytes(cols).unwrap()*rows).map(|_|byte()).collect();
      for b in bytes.chunks_mut(format.block_bytes()) { for at in match format { Format::Q4_0|Format::Q5_0|Format::Q8_0|Format::Iq4Nl|Format::Iq4Xs=>vec![1], Format::Q4_1|Format::Q5_1|Format::Q4K|Format::Q5K=>vec![1,3], Format::Q2K=>vec![81,83],Format::Q3K=>vec![109],Format::Q6K=>vec![209],_=>vec![]} { b[at]&=0x3f; } if format==Format::Mxfp4 {b[0]=110+b[0]%20;} }
      let x:Vec<f32>=(0..tokens*cols).map(|_| byte() as i8 as f32/ 37.0).collect();
      let m=QMatrix::new(format,rows,cols,&bytes).unwrap();
      let mut expect=vec![];
      for isa in Isa::available() { let k=Kernels::for_isa(isa).unwrap(); let kind=ActivationKind::of(format);
        let l=activations(k,kind,&x,cols); let mut out=vec![0f32;rows*tokens]; k.matmul(m,Activations::new(kind,tokens,cols,&l),&mut out);
        let b:Vec<u32>=out.iter().map(|v|v.to_bits()).collect();
        if isa==Isa::Scalar {expect=b; if rows==70&&tokens==1 {println!("{format} {:?}",&out[..3])}} else if b!=expect { let i=b.iter().zip(&expect).position(|(a,b)|a!=b).unwrap(); println!("MISMATCH {isa} {format} {rows}x{cols} t{tokens} at {i}: {} vs {}",out[i],f32::from_bits(expect[i])); }
      } } } println!("done"); }
